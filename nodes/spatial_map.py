from comfy_api.latest import io

from ..gligen_ops.entities import SpatialMap
from ..gligen_ops.tokenizers.maps import MapTokenizer, SemanticMapTokenizer
from .layouts.inputs import conditioning, strength
from .pictures import ade20k
from .pictures.images import three_channels
from .seam.conditioning import ground
from .seam.gligens import need


class GligenSpatialMap(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="GligenSpatialMap",
            display_name="GLIGEN Spatial Map",
            category="conditioning/gligen",
            description="Lays the whole image out by a map: soft edges (HED), Canny edges, depth, "
            "normals or ADE20K classes, whichever the GLIGEN model was trained on.",
            search_aliases=["gligen", "canny", "depth", "hed", "normal", "segmentation", "edges"],
            inputs=[
                conditioning(),
                io.Gligen.Input(
                    "gligen", tooltip="A GLIGEN model for maps, from the GLIGEN Model Loader."
                ),
                io.Image.Input(
                    "image",
                    tooltip="The map, in the aspect of the picture; of any size. Of several each goes to "
                    "one image of the batch; the last stays for any more.",
                ),
                io.Combo.Input(
                    "classes", options=list(ade20k.READINGS),
                    tooltip="How a semantic map is read: indices are grey values 0 to 150, palette the "
                    "colours of ADE20K; automatic takes a grey picture for indices. Other maps do not "
                    "use it.",
                ),
                strength(),
            ],
            outputs=[io.Conditioning.Output(tooltip="The prompt with the map.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, conditioning, gligen, image, classes, strength=1.0) -> io.NodeOutput:
        gligen = need(gligen, MapTokenizer)
        image = three_channels(image)
        has_classes = isinstance(gligen.net.position_net, SemanticMapTokenizer)
        if has_classes:
            maps = ade20k.class_map(image, classes)
        else:
            maps = image.movedim(-1, 1) * 2 - 1
        frames = tuple(SpatialMap(picture, has_classes) for picture in maps)
        return io.NodeOutput(ground(conditioning, gligen, [frames], strength))
