"""AnimeSketchNet's method, in plain PyTorch: what ComfyUI nodes and trainer share."""

from .adapter import AnimeSketchAdapter as AnimeSketchAdapter
from .adapter_metadata import AdapterMetadata as AdapterMetadata
from .attention import decoupled_attention as decoupled_attention
from .clip_input import fit_sketch as fit_sketch
from .clip_input import pixel_values as pixel_values
from .clip_input import unconditional_pixel_values as unconditional_pixel_values
from .resampler import Resampler as Resampler
from .resampler import ResamplerConfig as ResamplerConfig
from .sketch_extraction import extract_lines as extract_lines
from .unet_layers import SD15 as SD15
from .unet_layers import CrossAttentionLayer as CrossAttentionLayer
from .unet_layers import UNetShape as UNetShape
from .unet_layers import cross_attention_layers as cross_attention_layers
from .weight_file import WrongAdapterError as WrongAdapterError
from .weight_file import check_fits as check_fits
from .weight_file import read_adapter as read_adapter
from .weight_file import write_adapter as write_adapter
