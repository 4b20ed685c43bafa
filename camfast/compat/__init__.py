"""Drop-in packages for other libraries, one a peer: their names, signatures and results over camfast's engines.

``from pytorch_grad_cam import GradCAM`` becomes ``from camfast.compat.pytorch_grad_cam import GradCAM``; the peer need
not be installed. What is the same and what is not: ``docs/migrating.md``.
"""
