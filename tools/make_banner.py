"""Draw the moving picture of the README: seven people, seven emotions, from rest to apex and back.

    python tools/make_banner.py     # writes nbs/images/seven.webp
"""
from pathlib import Path

import numpy as np
from PIL import Image

from micacl.data.synfew.generate import sample_clip

OUT = Path(__file__).parents[1] / "nbs" / "images" / "seven.webp"
SIZE, FRAMES, INDEX = 112, 24, (11, 12, 13, 14, 15, 16, 17)


def main():
    clips = [sample_clip(0, i, emotion, 0.0 if emotion == 2 else 1.0, -1, 0.0, i, FRAMES, (0.4, 0.5)).frames(SIZE)
             for emotion, i in enumerate(INDEX)]
    strips = [Image.fromarray(np.concatenate([c[min(t, len(c) - 1)] for c in clips], 1)) for t in range(FRAMES)]
    OUT.parent.mkdir(exist_ok=True)
    strips[0].save(OUT, save_all=True, append_images=strips[1:], duration=80, loop=0, quality=72, method=6)
    print(f"{OUT}: {OUT.stat().st_size // 1024} KiB")


if __name__ == "__main__": main()
