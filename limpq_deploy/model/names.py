"""Models by name, as settings and options spell them. Nothing is imported here."""

BUILT_IN = ("resnet8", "resnet20", "resnet32", "resnet44", "resnet56", "mobilenet_v1")
"""Those of `model.zoo`."""

LIBRARIES = ("torchvision", "timm")
"""Libraries whose classifiers are made by name, ``torchvision/mobilenet_v2``; see `model.zoo.torchvision`."""

FORMS = f"{', '.join(BUILT_IN)}, {', '.join(f'{name}/NAME' for name in LIBRARIES)} or package.module:factory"
