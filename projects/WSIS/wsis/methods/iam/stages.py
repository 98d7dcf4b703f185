"""IAM's stages; the shared ones (peak classifier, proposals, pseudo labels) are elsewhere."""

from __future__ import annotations
