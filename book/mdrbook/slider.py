"""Figures with a slider that works in a built page, without a kernel."""

from collections.abc import Sequence
from html import escape

from IPython.display import HTML
from matplotlib.figure import Figure

from mdrbook.style import image

# The handler finds its own images and needs no names, so that any number of sliders share a page. Screen
# readers speak aria-valuetext when the slider moves; the visible label is hidden from them. The attribute
# data-lm-suppress-shortcuts keeps JupyterLab from taking the arrow keys.
ON_INPUT = (
    "const box=this.closest('.mdr-player'),i=+this.value,images=box.querySelectorAll('img');"
    "images.forEach((image,k)=>{image.style.display=k===i?'block':'none'});"
    "const label=images[i].dataset.label;"
    "box.querySelector('.mdr-player-label').textContent=label;"
    "this.setAttribute('aria-valuetext',label)"
)


def frames(
    figures: Sequence[Figure], labels: Sequence[str], alt: str, caption: str = "", start: int = 0
) -> HTML:
    """Show one figure at a time, chosen by a slider; no network, library or kernel is needed.

    Args:
        figures: F figures of one size, embedded as PNG.
        labels: F texts, one for each figure, shown next to the slider and read out.
        alt: What all figures show; each figure's description is this and its label.
        caption: Shown below the figures, and read out for the slider.
        start: The figure that is shown first, from 0, and alone where scripts do not run.

    Returns:
        The slider and the figures.
    """
    images = "".join(
        image(figure, f"{alt}: {label}", label, shown=k == start)
        for k, (figure, label) in enumerate(zip(figures, labels, strict=True))
    )
    first = escape(labels[start])
    slider = (
        f'<input type="range" min="0" max="{len(labels) - 1}" step="1" value="{start}" autocomplete="off" '
        "data-lm-suppress-shortcuts "
        f'aria-label="{escape(caption) or "Choose the picture"}" aria-valuetext="{first}" '
        f'style="flex:1 1 12em;max-width:24em;accent-color:#5782D9" oninput="{escape(ON_INPUT)}">'
    )
    label = f'<span class="mdr-player-label" aria-hidden="true" style="flex:1 1 14em">{first}</span>'
    below = f'<p style="margin:0.3em 0">{escape(caption)}</p>' if caption else ""
    return HTML(
        f'<div class="mdr-player" role="group" aria-label="{escape(caption) or "Pictures with a slider"}">'
        '<div style="display:flex;flex-wrap:wrap;gap:0.3em 1em;align-items:center;margin:0.3em 0">'
        f"{slider}{label}</div>{images}{below}</div>"
    )
