"""What devices may do: hand in profiles, and certificates of winners."""

from functools import partial

from anyio import to_thread
from fastapi import Request

from nas.api.authentication import describe_needs
from nas.api.credentials import Role
from nas.api.routes.common import TheDevices, TheLimiter, TheToken, build_guarded_router, describe_errors
from nas.api.schemas import CertificateReceipt, ProfileReceipt

router = build_guarded_router()
_BODY = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}


@router.post(
    "/v1/profiles", status_code=201, responses=describe_errors(),
    openapi_extra=describe_needs(Role.DEVICE, "upload_bytes", requestBody=_BODY),
)  # fmt: skip
async def upload_profile(request: Request, devices: TheDevices, limiter: TheLimiter) -> ProfileReceipt:
    """Hand in the profile.json that a kit wrote on a device, for searches for that device to predict with."""
    document = await request.body()
    return await to_thread.run_sync(partial(devices.keep_profile, document), limiter=limiter)


@router.post(
    "/v1/searches/{id}/certificates", status_code=201, responses=describe_errors(404, 503),
    openapi_extra=describe_needs(Role.DEVICE, "upload_bytes", requestBody=_BODY),
)  # fmt: skip
async def upload_certificate(
    id: str, request: Request, devices: TheDevices, token: TheToken, limiter: TheLimiter
) -> CertificateReceipt:
    """Hand in the certificate.json of a search's winner; it has to be of the very file that the search made."""
    document = await request.body()
    return await to_thread.run_sync(partial(devices.keep_certificate, id, document, token.name), limiter=limiter)
