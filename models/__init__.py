"""Few-shot and active learning on images, in plain PyTorch.

Nothing here knows about HTTP or SQL. Axis names used in every signature:

    B  images in a batch      D  embedding dimensions    Q  query images
    N  images in the pool     C  classes                 S  image side, pixels
    M  all images, or the labeled ones                   K  images chosen
    G  methods compared       H  shares compared         R  repetitions
    P  projected features     J  negatives               T  side of a view, pixels
    L  parts of an image          X  values of such a part      Y  features of an embedding
    F  tokens, those of no part among them        E  eigenvectors
    A  landmarks, which stand for all images      U  labeled images, where M are all
    V  images picked or handed out already        W  values on a grid

Images are RGB, uint8 in 0..255 as decoded and float32 in 0..1 inside encoders; embeddings have
unit length.
"""
