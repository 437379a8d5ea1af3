"""The corruptions of CIFAR-10-C, ImageNet-C and MNIST-C: computed, seeded and batched, or read from official files."""

from secateur.data.corruptions.corrupt import corrupt, kinds, severities
from secateur.data.corruptions.official import cifar10_1, cifar10_c, mnist_c

__all__ = ["cifar10_1", "cifar10_c", "corrupt", "kinds", "mnist_c", "severities"]
