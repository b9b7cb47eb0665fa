# Handful as a container image. From the root of the repository:
#
#   docker build --tag handful .
#
# On x86-64 this installs the CUDA build of torch. No CUDA base image is needed: the wheels carry
# the CUDA libraries, and the driver comes from the host through the NVIDIA Container Toolkit.
# For an image a tenth of that size without CUDA, pass the address of PyTorch's CPU wheel index,
# which the page "Start locally" of PyTorch's web site shows:
#
#   docker build --tag handful --build-arg TORCH_INDEX_URL=ADDRESS .

FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /srv/handful
ENV PATH="/srv/handful/bin:$PATH"
WORKDIR /build

# Dependencies first: they are large and change seldom, so this layer outlives most edits.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['server'], sep='\n')" \
    > requirements.txt
ARG TORCH_INDEX_URL=""
# Only torch and torchvision come from that index: what else it holds may lag behind the pins.
RUN --mount=type=cache,target=/root/.cache/pip \
    if [ -n "$TORCH_INDEX_URL" ]; then \
        pip install --no-deps --index-url "$TORCH_INDEX_URL" --constraint constraints.txt \
            torch torchvision; \
    fi \
    && pip install --constraint constraints.txt --requirement requirements.txt

COPY README.md LICENSE ./
COPY migrations migrations
COPY models models
COPY app app
COPY handful handful
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[server]'


FROM python:3.11-slim-bookworm

# A fixed number, so that the owner of a mounted folder can be set without asking the image.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin handful \
    && install --directory --owner=handful --group=handful --mode=0750 /data
COPY --from=build /srv/handful /srv/handful

# Listening on every address makes HANDFUL_API_KEY mandatory: the service refuses to start without.
ENV PATH="/srv/handful/bin:$PATH" \
    PYTHONUNBUFFERED=1 \
    HANDFUL_DATA_DIR=/data \
    HANDFUL_HOST=0.0.0.0 \
    HANDFUL_PORT=8000 \
    XDG_CACHE_HOME=/data/.cache
USER handful
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM

# urllib, because the slim image has no curl; without proxies, because it asks itself.
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['HANDFUL_PORT'] + '/readyz', timeout=4)"]

CMD ["handful", "serve"]
