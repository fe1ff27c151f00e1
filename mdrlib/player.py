"""A series of figures behind a slider: an animation that lives in a built page, without a kernel."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The handler finds its own images and needs no names, so that any number of players share a page. Screen
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
    figures: Sequence[Figure],
    labels: Sequence[str],
    alt: Sequence[str] | str,
    caption: str = "",
    start: int = 0,
) -> Any:
    """An IPython HTML object that shows one of the figures at a time, chosen by a slider.

    figures: F of one size, embedded as PNG; labels: F words, shown and read out beside the slider; alt: F
    descriptions, or one that is put before each label; start: which figure is shown first, and alone where
    scripts do not run. Uses no network, no library and no kernel; the arrow keys move the slider.
    Raises ValueError when the counts differ.
    """
    try:
        from IPython.display import HTML
    except ImportError as error:
        raise ImportError("frames needs IPython: pip install mdrlib[notebooks]") from error
    if isinstance(alt, str):
        alt = [f"{alt}: {label}" for label in labels]
    count = len(figures)
    if count == 0 or len(labels) != count or len(alt) != count:
        raise ValueError(
            f"frames needs one or more figures and as many labels and alt texts; "
            f"got {count}, {len(labels)} and {len(alt)}"
        )
    if not 0 <= start < count:
        raise ValueError(f"start must be from 0 to {count - 1}, got {start}")
    images = "".join(
        image(figure, text, label, shown=k == start)
        for k, (figure, label, text) in enumerate(zip(figures, labels, alt, strict=True))
    )
    first = escape(labels[start])
    slider = (
        f'<input type="range" min="0" max="{count - 1}" step="1" value="{start}" autocomplete="off" '
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


def image(figure: Figure, alt: str, label: str = "", shown: bool = True) -> str:
    """The figure as an <img> with its PNG inside, 144 dots an inch; the same bytes for the same figure."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=144, metadata={"Software": None})
    source = base64.b64encode(data.getvalue()).decode()
    width, display = figure.get_figwidth() * 96, "block" if shown else "none"
    return (
        f'<img src="data:image/png;base64,{source}" alt="{escape(alt)}" data-label="{escape(label)}" '
        f'style="display:{display};width:{width:.0f}px;max-width:100%;height:auto">'
    )
