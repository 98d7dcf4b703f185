"""One fair evaluator for every method, with named protocols: truth in, products in, figures out.

From bottom to top: `streaming` (a measure and its records, gathered over processes), `predictions`
and `truth`; the protocols `voc`, `coco`, `semantic`, `classification` and the `image_loop`; on them
`voc_instance` (the evaluator for Detectron2) and the quality of `pseudo_labels` and `proposals`; at
the top `checks`, which stages use for their products. `results` writes the figures.
"""
