"""Draw card.png, which previews of links show, from mdr.png next to this file: python make_card.py"""

from pathlib import Path

from matplotlib import pyplot as plt

HERE = Path(__file__).parent
TITLE = "Multi-level Distance Regularization"
WORDS = "an executable book on deep metric learning, with a PyTorch library"


def main() -> None:
    picture = plt.imread(HERE / "mdr.png")
    fig = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="white")  # 1200 x 630: what services expect
    fig.text(0.04, 0.88, TITLE, fontsize=38, fontweight="bold", color="#1a1a1a")
    fig.text(0.04, 0.79, WORDS, fontsize=21, color="#444444")
    ax = fig.add_axes((0.04, 0.06, 0.92, 0.66))
    ax.imshow(picture)
    ax.axis("off")
    fig.savefig(HERE / "card.png")


if __name__ == "__main__":
    main()
