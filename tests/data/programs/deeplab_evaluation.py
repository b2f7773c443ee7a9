"""A DeepLab evaluation loop: saved logits, one image after the other in a pool of processes, mean IoU.

deeplab_evaluation.py OUT.npz [fork | spawn]
"""

import multiprocessing
import sys

import numpy as np
import pydensecrf.densecrf as dcrf
import pydensecrf.utils as utils


class DenseCRF(object):
    def __init__(self, iter_max, pos_w, pos_xy_std, bi_w, bi_xy_std, bi_rgb_std):
        self.iter_max = iter_max
        self.pos_w = pos_w
        self.pos_xy_std = pos_xy_std
        self.bi_w = bi_w
        self.bi_xy_std = bi_xy_std
        self.bi_rgb_std = bi_rgb_std

    def __call__(self, image, probmap):
        C, H, W = probmap.shape

        U = utils.unary_from_softmax(probmap)
        U = np.ascontiguousarray(U)

        image = np.ascontiguousarray(image)

        d = dcrf.DenseCRF2D(W, H, C)
        d.setUnaryEnergy(U)
        d.addPairwiseGaussian(sxy=self.pos_xy_std, compat=self.pos_w)
        d.addPairwiseBilateral(sxy=self.bi_xy_std, srgb=self.bi_rgb_std, rgbim=image, compat=self.bi_w)

        Q = d.inference(self.iter_max)
        return np.array(Q).reshape((C, H, W))


postprocessor = DenseCRF(iter_max=10, pos_xy_std=1, pos_w=3, bi_xy_std=67, bi_rgb_std=3, bi_w=4)


def load(i, classes=6, height=17, width=19):
    rng = np.random.default_rng(i)
    gt = rng.integers(0, classes, (height // 9 + 1, width // 9 + 1)).repeat(9, 0).repeat(9, 1)[:height, :width]
    colours = rng.integers(20, 230, (classes, 3))
    image = (colours[gt] + rng.integers(-3, 4, (height, width, 3))).astype(np.uint8)
    logits = rng.normal(size=(classes, height, width)) * 1.2 + 1.5 * (gt == np.arange(classes)[:, None, None])
    return image, logits.astype(np.float32), gt


def process(i):
    image, logits, gt = load(i)
    prob = np.exp(logits) / np.exp(logits).sum(0)
    prob = postprocessor(image, prob)
    return prob, np.argmax(prob, axis=0), gt


def scores(gts, preds, n):
    hist = sum(np.bincount(n * g.flatten() + p.flatten(), minlength=n * n).reshape(n, n) for g, p in zip(gts, preds))
    return np.diag(hist) / (hist.sum(1) + hist.sum(0) - np.diag(hist))


if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2] if len(sys.argv) > 2 else "fork")
    with context.Pool(2) as pool:
        results = pool.map(process, range(4))
    probs, preds, gts = zip(*results)
    np.savez(sys.argv[1], Q=np.stack(probs, axis=1), IoU=scores(gts, preds, 6))
