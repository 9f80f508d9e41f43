# Four images:
#   --target api      the API, migrations and the operator's commands; without torch
#   --target worker   the same with the worker and torch
#   --target deliver  the same as api with the libraries of experiment trackers and the hub; without torch
#   --target objects  an S3 store for a single machine, which the tests use too
# PIP_ARGS is passed to pip, as in the Makefile. The default is PyPI's torch, which includes CUDA.

FROM python:3.11.15-slim-bookworm AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Only listed packages are installed, each file must match a hash that `make lock` wrote, and no code of a source
# distribution runs.
ENV LOCKED="--require-hashes --no-deps --only-binary=:all:"
# /data is the only writable folder. A new volume that is mounted there belongs to this user.
RUN groupadd --gid 10001 attune && useradd --system --uid 10001 --gid attune --home-dir /data attune \
    && install --directory --owner attune --group attune --mode 0700 /data

# Attune's wheel, built with a build backend whose hashes are pinned.
FROM base AS wheel
ARG PIP_ARGS=""
WORKDIR /source
COPY requirements/build.txt requirements/build.txt
RUN pip install $PIP_ARGS $LOCKED -r requirements/build.txt
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# Dependencies are separate layers, so that a change of Attune's code does not install torch again.
FROM base AS api-needs
ARG PIP_ARGS=""
WORKDIR /source
COPY requirements/api.txt requirements/api.txt
RUN python -m venv /opt/attune && /opt/attune/bin/pip install $PIP_ARGS $LOCKED -r requirements/api.txt

FROM api-needs AS worker-needs
ARG PIP_ARGS=""
COPY constraints.txt requirements/torch.txt requirements/worker.txt ./
# torch.txt has the hashes of PyPI's files. Another index has other builds of torch, so only the version is pinned.
RUN if [ -z "$PIP_ARGS" ]; then /opt/attune/bin/pip install $LOCKED -r torch.txt; \
    else /opt/attune/bin/pip install $PIP_ARGS -c constraints.txt torch; fi
RUN /opt/attune/bin/pip install $PIP_ARGS $LOCKED -r worker.txt

FROM api-needs AS deliver-needs
ARG PIP_ARGS=""
COPY requirements/deliver.txt requirements/deliver.txt
RUN /opt/attune/bin/pip install $PIP_ARGS $LOCKED -r requirements/deliver.txt

FROM api-needs AS api-built
COPY --from=wheel /wheels /wheels
RUN /opt/attune/bin/pip install --no-deps --no-index /wheels/*.whl && /opt/attune/bin/pip check

FROM worker-needs AS worker-built
COPY --from=wheel /wheels /wheels
RUN /opt/attune/bin/pip install --no-deps --no-index /wheels/*.whl && /opt/attune/bin/pip check

FROM deliver-needs AS deliver-built
COPY --from=wheel /wheels /wheels
RUN /opt/attune/bin/pip install --no-deps --no-index /wheels/*.whl && /opt/attune/bin/pip check

FROM base AS run
# Set by --build-arg COMMIT=$(git rev-parse HEAD). The manifests of trained models record the commit.
ARG COMMIT=""
ENV SOURCE_COMMIT=$COMMIT \
    ATTUNE_DATA_DIR=/data \
    ATTUNE_HOST=0.0.0.0 \
    HOME=/data \
    PATH=/opt/attune/bin:$PATH
USER 10001:10001
WORKDIR /data
ENTRYPOINT ["attune"]

FROM run AS worker
COPY --from=worker-built /opt/attune /opt/attune
CMD ["worker"]

FROM run AS deliver
COPY --from=deliver-built /opt/attune /opt/attune
CMD ["worker", "--stage", "deliver"]

FROM base AS objects
ARG PIP_ARGS=""
COPY requirements/objects.txt /tmp/objects.txt
RUN pip install $PIP_ARGS $LOCKED -r /tmp/objects.txt
USER 10001:10001
WORKDIR /data
EXPOSE 8333
# Without a proxy, which Docker may set in the environment of every container.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8333/healthz', timeout=4)"]
ENTRYPOINT ["weed"]

FROM run AS api
COPY --from=api-built /opt/attune /opt/attune
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:8000/readyz', timeout=4)"]
CMD ["api"]
