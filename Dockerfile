# One image for every service of docker-compose.yml; the command says which.
# Build for the CPU instead of NVIDIA GPUs: docker build --build-arg FLAVOUR=cpu .
FROM python:3.11-slim-bookworm

# libnuma and lscpu: vLLM's CPU build; a C compiler: kernels that vLLM's CUDA build compiles at its first start.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libnuma1 util-linux gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 muster \
 && mkdir /app /data && chown muster /app /data

USER muster
WORKDIR /app
ARG FLAVOUR=cuda
COPY --chown=muster setup ./setup
COPY --chown=muster locks ./locks
# The demo's weights and the embedder go into /data: a new volume there starts with them.
RUN python setup/environment.py --flavour "$FLAVOUR" --weights --data-dir /data && rm -rf ~/.cache
COPY --chown=muster . .

ENV PATH=/app/.venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 MUSTER_DATA_DIR=/data
# Weights from the hub outlive their container.
ENV HF_HOME=/data/huggingface
VOLUME /data
CMD ["python", "-m", "api"]
