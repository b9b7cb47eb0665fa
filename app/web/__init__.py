"""The labeling page: HTML, CSS and ES modules, served as they are."""

from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.http.parameters import refuse_unknown_parameters

FOLDER = Path(__file__).parent / "static"
FRESH = {"Cache-Control": "no-cache"}  # asked for each time, sent only when it changed

router = APIRouter(include_in_schema=False, dependencies=[Depends(refuse_unknown_parameters)])


class _Fresh(StaticFiles):
    """Files that a browser asks for again after an upgrade."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(FRESH)
        return response


@router.get("/")
def page() -> FileResponse:
    """The page."""
    return FileResponse(FOLDER / "index.html", headers=FRESH)


def install(app: FastAPI) -> None:
    """Serve the page and its files."""
    app.router.routes.extend(router.routes)
    # The library that draws the map.
    app.mount("/web/lib", _Fresh(packages=[("plotly", "package_data")]), name="library")
    app.mount("/web", _Fresh(directory=FOLDER), name="web")
