"""How pictures are sent to a service."""


def upload(service, path, *contents, **params):
    """Send pictures below the project `birds`; the answer."""
    files = [("files", (f"{n}.png", content, "image/png")) for n, content in enumerate(contents)]
    return service.post(f"/v1/projects/birds{path}", files=files, params=params)
