"""One fair evaluation for every method, with named protocols: truth in, products in, figures out.

From bottom to top: `streaming` (a measure and its records, gathered over processes), `predictions`
and `truth`; the `evaluator`, which takes images one by one, and the measures of protocols in `voc`,
`coco`, `semantic` and `pseudo_labels`; on them `voc_instance` (the evaluator for Detectron2),
`classification`, `box_masks` and `proposals`; at the top `checks`, the evaluators of products that
several methods share. `results` writes the figures.
"""
