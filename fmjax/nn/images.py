"""Images at the door of a network: what it cannot read is refused with one line.

How many channels an image has is learned from the first one: the weights are made for it, and others are refused
by nn/convolution.py's `check_channels`.
"""

from fmjax.core.errors import ConfigError


def check_image(who: str, shape: tuple[int, ...], least: int, instead: str = "give larger images") -> None:
    """Refuse what is no batch of images, or has fewer rows or columns than `least`.

    Args:
      who: the network's name.
      instead: what to do about an image that is too small.

    Raises:
      ConfigError: one of these.
    """
    if len(shape) != 4:
        raise ConfigError(f"{who} reads images (batch, rows, columns, channels), not an array of shape {tuple(shape)}")
    if min(shape[1:3]) < least:
        raise ConfigError(
            f"an image of {shape[1]}x{shape[2]} is too small for {who}, which needs {least}x{least}: {instead}"
        )


def check_stages(who: str, depths: tuple[int, ...], widths: tuple[int, ...]) -> None:
    """Refuse stages whose depths and widths are not equally many.

    Raises:
      ConfigError: they are not.
    """
    if len(depths) != len(widths):
        raise ConfigError(f"{who} has {len(depths)} depths {depths} but {len(widths)} widths {widths}: give one each")
