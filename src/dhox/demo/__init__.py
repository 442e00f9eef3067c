"""The embedded default: Fashion-MNIST images and a tiny OpenCLIP teacher."""
