"""Compares an exported mesh or points with the exact depth of a generated room: accuracy, completeness, F-score.

Accuracy is the distance from the export to the surfaces that any view of the room shows, completeness the distance from
the surfaces that the train photos of a split show to the export; the F-score at a threshold is the harmonic mean of the
shares within it. Metres.

    gf-sample-scene --output room
    ns-train genfusion --data room ...
    gf-export mesh --load-config RUN/config.yml --frame capture --output mesh.ply
    python docs/compare_geometry.py --export mesh.ply --scene room --split room/train_test_split_9.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import trimesh
import tyro
from PIL import Image
from scipy.spatial import KDTree


@dataclass
class Compare:
    """Print one line of JSON."""

    export: Path
    """Written by gf-export mesh or points with --frame capture."""
    scene: Path
    """Written by gf-sample-scene."""
    split: Path
    """Its train photos say which surfaces are to be complete."""
    thresholds: tuple[float, ...] = (0.02, 0.05, 0.1)
    """Metres."""
    samples: int = 100000
    """Points on a mesh."""

    def run(self) -> None:
        """Compare."""
        from genfusion_ns.geometry.meshes import Mesh

        content = json.loads((self.scene / "transforms.json").read_text())
        train = set(json.loads(self.split.read_text())["train_ids"])
        seen = [self._surface(content, frame) for frame in content["frames"]]
        everything = self._thinned(np.concatenate(seen))
        wanted = self._thinned(np.concatenate([part for view, part in enumerate(seen) if view in train]))[::4]
        loaded = trimesh.load(str(self.export), process=False)
        found = np.asarray(loaded.vertices, dtype=np.float64)
        if isinstance(loaded, trimesh.Trimesh):
            found, _ = Mesh(found, np.asarray(loaded.faces)).points_on(self.samples, torch.Generator().manual_seed(0))
        applied = np.array(content["applied_transform"])  # nerfstudio's capture frame is before it
        found = found @ applied[:, :3].T + applied[:, 3]
        accuracy, completeness = KDTree(everything).query(found)[0], KDTree(found).query(wanted)[0]
        result = {"accuracy": np.median(accuracy), "completeness": np.median(completeness)}
        for threshold in self.thresholds:
            precision, recall = float((accuracy < threshold).mean()), float((completeness < threshold).mean())
            result |= {f"precision_{threshold:g}": precision, f"recall_{threshold:g}": recall}
            result[f"f_{threshold:g}"] = 2 * precision * recall / max(precision + recall, 1e-12)
        print(json.dumps({name: round(float(value), 4) for name, value in result.items()}))

    def _surface(self, content: dict, frame: dict) -> np.ndarray:
        from genfusion_ns.geometry.cameras import c2w_to_viewmat
        from genfusion_ns.geometry.depth import depth_to_points

        depth = torch.from_numpy(np.array(Image.open(self.scene / frame["depth_file_path"])) / 1000)[..., None]
        viewmat = c2w_to_viewmat(torch.tensor(frame["transform_matrix"], dtype=torch.float64))
        K = torch.tensor([[content["fl_x"], 0, content["cx"]], [0, content["fl_y"], content["cy"]], [0, 0, 1]])
        return depth_to_points(depth, K.double(), viewmat)[depth[..., 0] > 0].numpy()

    def _thinned(self, points: np.ndarray, cell: float = 0.01) -> np.ndarray:
        return points[np.unique(np.floor(points / cell).astype(np.int64), axis=0, return_index=True)[1]]


if __name__ == "__main__":
    tyro.cli(Compare).run()
