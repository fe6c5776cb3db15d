"""Fills wide holes with pixels of their surroundings: exemplar-based inpainting.

From coarse to fine, each patch over the hole is compared with patches that are known everywhere, and the missing pixels
become what the best ones propose (space-time completion, Wexler, Shechtman and Irani 2007; PatchMatch, Barnes et al.
2009). At full size every missing pixel is a copy of a known one, so detail and grain are those of the picture, and
seams are taken out in the gradient domain.
"""
