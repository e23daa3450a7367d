"""What devices may do: hand in profiles, and certificates of winners."""

from functools import partial

from anyio import to_thread
from fastapi import Request

from nas.api.authentication import needs
from nas.api.credentials import Role
from nas.api.routes.common import TheDevices, TheLimiter, TheToken, errors, guarded
from nas.api.schemas import CertificateReceipt, ProfileReceipt

router = guarded()
_BODY = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}


@router.post(
    "/v1/profiles", status_code=201, responses=errors(),
    openapi_extra=needs(Role.DEVICE, "upload_bytes", requestBody=_BODY),
)  # fmt: skip
async def upload_profile(request: Request, devices: TheDevices, limiter: TheLimiter) -> ProfileReceipt:
    """Hand in the profile.json that a kit wrote on a device, for searches for that device to predict with."""
    document = await request.body()
    return await to_thread.run_sync(partial(devices.profile, document), limiter=limiter)


@router.post(
    "/v1/searches/{id}/certificates", status_code=201, responses=errors(404, 503),
    openapi_extra=needs(Role.DEVICE, "upload_bytes", requestBody=_BODY),
)  # fmt: skip
async def upload_certificate(
    id: str, request: Request, devices: TheDevices, token: TheToken, limiter: TheLimiter
) -> CertificateReceipt:
    """Hand in the certificate.json of a search's winner; it has to be of the very file that the search made."""
    document = await request.body()
    return await to_thread.run_sync(partial(devices.certificate, id, document, token.name), limiter=limiter)
