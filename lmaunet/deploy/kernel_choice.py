"""Which kernel of a build serves an image: asked for, or by the image's resolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmaunet.data.preparation import ImagePreparation, ReadyVolume
from lmaunet.errors import UserError
from lmaunet.kernel_profiles import KernelChoice, KernelProfiles, check_kernel

if TYPE_CHECKING:
    from lmaunet.data.images.volumes import Image
    from lmaunet.deploy.deployment import Interface
    from lmaunet.deploy.segmenter import Segmenter


class ChoosingPreparation:
    """Prepares an image as the profile does that serves it; ``choice`` says which, once it has.

    Args:
        profiles: the build's kernels and thresholds.
        of: by kernel how its images are prepared.
        kernel: which is asked for; None chooses by the image.
    """

    def __init__(
        self, profiles: KernelProfiles, of: Mapping[int, ImagePreparation], kernel: int | None
    ) -> None:
        self.profiles, self.of, self.kernel = profiles, of, kernel
        self.choice: KernelChoice | None = None
        own = of[profiles.reference if kernel is None else kernel]
        self.size, self.resampled_mm = own.size, own.resampled_mm
        self.intensity, self.mirror_axes = own.intensity, own.mirror_axes
        self.depth = own.depth

    def ready(self, images: Sequence[Image], names: Sequence[str]) -> ReadyVolume:
        """Return an image made ready for the profile that serves it; raises UserError."""
        geometry = images[0].geometry
        self.choice = (
            self.profiles.choose(geometry.shape[1:], geometry.spacing_mm[1:])
            if self.kernel is None
            else KernelChoice(self.kernel, "as asked for")
        )
        return self.of[self.choice.kernel].ready(images, names)

    def to_json(self) -> dict[str, Any]:
        """Return what the reference's says."""
        return self.of[self.profiles.reference].to_json()


@dataclasses.dataclass(frozen=True)
class Chooser:
    """A build that an image is going to be segmented with, and how its kernel is chosen.

    Args:
        opened: the build.
        interface: what prepares an image; where there is a choice, it is made then.
    """

    opened: Segmenter
    interface: Interface

    @staticmethod
    def of(opened: Segmenter, kernel: int | None) -> Chooser:
        """Return the chooser for a kernel that is asked for, or None for one by the image.

        Raises:
            UserError: for a kernel that the build has not; one of one kernel takes none.
        """
        interface, profiles = opened.deployment.interface, opened.deployment.kernels
        if profiles is None:
            if kernel is not None:
                raise UserError(
                    f"--kernel {kernel}: {opened.folder} is of a network whose kernels are fixed; "
                    "leave the option out"
                )
            return Chooser(opened, interface)
        if kernel is not None:
            check_kernel(kernel, profiles.kernels, str(opened.folder))
        of = {profiles.reference: interface.preparation}
        of |= {k: d.interface.preparation for k, d in opened.deployment.profiles.items()}
        choosing = ChoosingPreparation(profiles, of, kernel)
        return Chooser(opened, dataclasses.replace(interface, preparation=choosing))

    @property
    def choice(self) -> KernelChoice | None:
        """The kernel that was chosen, after an image was prepared; None where there is one."""
        return getattr(self.interface.preparation, "choice", None)

    def segmenter(self) -> Segmenter:
        """Return the build at the kernel that was chosen, after an image was prepared."""
        return self.opened if self.choice is None else self.opened.at_kernel(self.choice.kernel)
