# The command pancreas-dual-task, and for grand-challenge the same with trained models inside; see docs/package.md.
#   docker build -t pancreas-dual-task .
#   docker build -t pancreas-dual-task-panorama --target panorama .
ARG PYTHON=python:3.12-slim

FROM ${PYTHON} AS wheel
WORKDIR /source
COPY setup.py pyproject.toml requirements*.txt README.md LICENSE ./
COPY data data
COPY models models
COPY engine engine
COPY pancreas_dual_task pancreas_dual_task
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${PYTHON} AS base
# GPU kernels are compiled when they are first used, for which Triton needs a C compiler.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# Where torch is taken from. Empty for pip's own index, whose torch for Linux computes on GPUs (CUDA) and on CPUs; the
# address of PyTorch's index of CPU wheels makes a smaller image that computes on CPUs.
ARG TORCH_INDEX=""
COPY requirements.txt /tmp/
RUN grep '^torch' /tmp/requirements.txt > /tmp/torch.txt \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} --requirement /tmp/torch.txt
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir /tmp/wheels/*.whl \
    && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /data
ENTRYPOINT ["pancreas-dual-task"]

FROM base AS panorama
# A model file, or the folder of the runs, in the build context; of runs, only the best weights enter it (.dockerignore).
ARG MODEL=checkpoints
COPY ${MODEL} /opt/model
ENTRYPOINT ["pancreas-dual-task", "panorama", "--path", "/opt/model"]

# The target by default.
FROM base AS command
