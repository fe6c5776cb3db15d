# The service as one image: CPU by default, every published model inside, no shell needed to run it.
#   docker build -t restore .                               CPU
#   docker build -t restore --build-arg LOCK=gpu.txt .      NVIDIA GPU (run with --gpus all)
# To build twice from the same base, give its digest: --build-arg BASE=python:3.12-slim@sha256:…
ARG BASE=python:3.12-slim

FROM ${BASE} AS environment
ARG LOCK=serve.txt
RUN apt-get update && apt-get install --yes --no-install-recommends binutils
COPY requirements/${LOCK} /opt/requirements.txt
# Without what the service never reads (0.7 GB): C++ headers, libclang, names of static functions, tests, what installs.
RUN python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /opt/requirements.txt \
    && cd /opt/venv/lib/python3*/site-packages \
    && rm -r tensorflow/include \
    && strip --strip-unneeded tensorflow/libtensorflow_*.so.2 \
    && find . -type d -name tests -prune -exec rm -r {} + \
    && /opt/venv/bin/python -m pip uninstall --yes libclang setuptools wheel pip

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="restore" \
    org.opencontainers.image.description="Self-hosted image restoration: denoise, upscale, inpaint, segment, stylize" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin restore
WORKDIR /srv/restore
COPY --from=environment /opt/venv /opt/venv
COPY LICENSE NOTICE ./
COPY models models
COPY app app
# A volume that is mounted here for the first time takes its owner from the image.
RUN mkdir var && chown 10001 var
ENV PATH=/opt/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    RESTORE_HOST=0.0.0.0 \
    RESTORE_PORT=8000
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['RESTORE_PORT'] + '/livez', timeout=4)"]
CMD ["python", "-m", "app"]
