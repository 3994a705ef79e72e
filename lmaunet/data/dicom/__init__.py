"""DICOM: a series in, from each frame's own tags; a segmentation out."""
