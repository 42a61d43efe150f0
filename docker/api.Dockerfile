# syntax=docker/dockerfile:1
# The image that does not draw: `portraits serve`, `clerk`, `db upgrade`, `enqueue`, `results`. No torch, no CUDA. In the
# root of the repository:
#   docker build -f docker/api.Dockerfile -t portraits-api .
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# 1. packages, each with one version and none that is not listed.
FROM base AS packages
WORKDIR /build
COPY docker/api.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/portraits \
    && pip --python /opt/portraits/bin/python install --only-binary :all: --no-deps -r api.txt \
    && pip --python /opt/portraits/bin/python check

# 2. this software, as a wheel: what changes most comes last.
FROM base AS wheel
WORKDIR /build
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --only-binary :all: hatchling==1.27.0
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY migrations migrations
COPY hyperlora hyperlora
COPY jobs jobs
COPY worker worker
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM base AS api
RUN apt-get update \
    && apt-get install --no-install-recommends -y tini=0.19.0-* \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 portraits \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/portraits --shell /usr/sbin/nologin portraits \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/portraits
COPY --from=packages /opt/portraits /opt/portraits
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/portraits/bin/python install --no-cache-dir --no-deps /wheels/*.whl
# The promise of this image: it can enqueue and serve, and there is no torch in it.
RUN /opt/portraits/bin/python -c "import jobs, jobs.web; from importlib.util import find_spec; \
assert find_spec('torch') is None, 'this image must not bring torch'"
ENV PATH=/opt/portraits/bin:$PATH PORTRAITS_HOME=/var/lib/portraits
USER 10001:10001
WORKDIR /var/lib/portraits
VOLUME ["/var/lib/portraits"]
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=30s --retries=3 CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=8)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["portraits", "serve", "--host", "0.0.0.0", "--port", "8000"]
