# make image                                            without torch
# docker build -t vae-service --build-arg TORCH=cpu .   with torch's CPU build; TORCH=cuda: its CUDA build

FROM python:3.11-slim AS build
# the lock that is installed: requirements/$TORCH.txt
ARG TORCH=none
# where torch's CPU build comes from, beside the package index; each file has to have a hash of the lock
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils >/dev/null
WORKDIR /src
COPY requirements requirements
RUN python -m venv /opt/tools && /opt/tools/bin/pip install --quiet --require-hashes --requirement requirements/build.txt
RUN if [ "$TORCH" != cpu ]; then unset TORCH_INDEX_URL; fi \
 && python -m venv /opt/vae \
 && /opt/vae/bin/pip install --quiet --no-compile --no-deps --only-binary :all: --require-hashes \
    ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} --requirement "requirements/${TORCH:-none}.txt"
# what torch and ONNX Runtime need to compile and convert models: the service imports none of it
RUN /opt/vae/bin/pip uninstall --quiet --yes \
    flatbuffers fsspec jinja2 markupsafe mpmath networkx packaging setuptools sympy
COPY deploy/image deploy/image
RUN python deploy/image/trim.py /opt/vae/lib/python3*/site-packages
COPY . .
RUN /opt/tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /tmp . \
 && /opt/vae/bin/pip install --quiet --no-compile --no-deps --no-index /tmp/vae_service-*.whl \
 && /opt/vae/bin/pip uninstall --quiet --yes pip \
 && cd /opt/vae && rm -r bin/vae-train lib/python3*/site-packages/training
RUN python deploy/image/rootfs.py /opt/vae /rootfs

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title=vae-service \
      org.opencontainers.image.description="Serves a variational autoencoder over HTTP: image to latent, latent to image" \
      org.opencontainers.image.licenses=MIT \
      org.opencontainers.image.version=$VERSION \
      org.opencontainers.image.revision=$REVISION
COPY --from=build /rootfs /
# the service's own files in a layer of their own: a new version of it is a pull of a few MB
COPY --from=build /application /
ENV PATH=/opt/vae/bin HOME=/tmp LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility VAE_HOST=0.0.0.0 VAE_PORT=8000
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"VAE_PORT\"]}/readyz', timeout=2)"]
CMD ["vae-serve"]
