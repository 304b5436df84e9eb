"""Super-resolution networks, one architecture a file, with the keys under which their weights are published."""

from __future__ import annotations

from workloads.super_resolution.models import (
    carn,
    edsr,
    espcn,
    fsrcnn,
    imdn,
    imdn_rtc,
    msrresnet,
    pan,
    plain,
    rfdn,
    rlfn,
    srresnet,
)

ARCHITECTURES = (
    rfdn.ARCHITECTURE,
    imdn.ARCHITECTURE,
    imdn_rtc.ARCHITECTURE,
    pan.ARCHITECTURE,
    rlfn.ARCHITECTURE,
    carn.ARCHITECTURE,
    edsr.ARCHITECTURE,
    edsr.BASICSR_ARCHITECTURE,
    msrresnet.ARCHITECTURE,
    srresnet.ARCHITECTURE,
    fsrcnn.ARCHITECTURE,
    espcn.ARCHITECTURE,
    plain.ARCHITECTURE,
)
