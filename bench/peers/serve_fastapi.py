"""The server that one writes first: FastAPI and torch, a forward pass for each request."""

import sys
from typing import Annotated, Any

import uvicorn
from classifier import Classifier
from fastapi import Body, FastAPI

app = FastAPI()
classifier = Classifier()


@app.post("/classify")
def classify(body: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
    """The label of the photo that is the body."""
    answer: dict[str, Any] = classifier.classify(classifier.decode(body)[None])[0]
    return answer


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
