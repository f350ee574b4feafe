"""Hidden-state matching: it needs no vocabulary, so it works across all of them.

Shapes: B lines, S patches of the student, P patches of the teacher, E width of the teacher.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def hidden_match(
    student: Float[Tensor, "B S E"],
    teacher: Float[Tensor, "B P E"],
    student_grid: tuple[int, int],
    teacher_grid: tuple[int, int],
) -> Float[Tensor, ""]:
    """One less the cosine between the encoders' patches, averaged over a line's patches, summed over lines.

    Args:
        student: its patches, projected to the teacher's width by a layer that is learnt along.
        teacher: resized to the student's grid, bilinearly, where the grids differ.
        student_grid, teacher_grid: (rows, columns) of patches.

    Returns: in [0, 2] a line. Divide by the global number of lines.
    Source: FitNets (Romero et al. 2015, arXiv 1412.6550) has the projector, DistilBERT (Sanh et al. 2019, arXiv
        1910.01108, section 2) the cosine, which the size of the hidden states does not matter to.
    """
    if student_grid != teacher_grid:
        image = teacher.transpose(1, 2).unflatten(2, teacher_grid)
        resized = F.interpolate(image.float(), student_grid, mode="bilinear", align_corners=False, antialias=True)
        teacher = resized.flatten(2).transpose(1, 2)
    return (1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean(1).sum()
