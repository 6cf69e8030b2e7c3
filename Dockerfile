# The service in a container, with torch for the CPU:
#     docker build -t weightwell .
# and with torch for CUDA, which is what PyPI has for Linux:
#     docker build -t weightwell:cuda --build-arg TORCH_INDEX= .
# That one has a C compiler: Triton makes its bridge to the GPU's driver where it meets it, when the service starts.

FROM python:3.11-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /source
RUN python -m venv --without-pip /opt/weightwell
# Nearly all of the image, and slow to change: in a layer of its own, before the source.
COPY constraints.txt .
RUN pip --python /opt/weightwell/bin/python install --constraint constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch numba
COPY . .
RUN pip --python /opt/weightwell/bin/python install --constraint constraints.txt '.[service]'
# The kernels for x86-64-v3 and x86-64-v4, so that the service does not compile when it starts.
RUN /opt/weightwell/bin/python -m weightwell_engine.generators.philox.cpu.precompile
# What only those who build on torch or test it need: 200 MB. torch does not start without torch_shm_manager.
RUN cd /opt/weightwell/lib/python3.*/site-packages \
    && rm -rf torch/include torch/test numba/tests \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && find numpy sympy networkx -type d -name tests -prune -exec rm -r {} +

FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if [ -z "$TORCH_INDEX" ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi
LABEL org.opencontainers.image.title="Weightwell" \
      org.opencontainers.image.description=\
"Initialized weight tensors over HTTP: the same spec is the same bytes, everywhere." \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/weightwell /opt/weightwell
# The root file system may be read-only. /tmp holds the kernels that are compiled on this machine: by Numba for processors
# that are not in the image, and by Triton for a GPU. Triton loads libraries from there: mount a tmpfs with exec.
ENV PATH=/opt/weightwell/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    TRITON_CACHE_DIR=/tmp/triton \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    WEIGHTWELL_HOST=0.0.0.0 \
    WEIGHTWELL_PORT=8000
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin weightwell
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
EXPOSE 8000
# http.client, because urllib would ask a proxy that the environment names. The certificate is for the name that clients
# use, which is not localhost. 401: WEIGHTWELL_OPEN_HEALTH=false, and the service answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import http.client, os, ssl, sys; \
port = int(os.environ['WEIGHTWELL_PORT']); \
tls = os.environ.get('WEIGHTWELL_TLS_CERTIFICATE'); \
context = ssl._create_unverified_context(); \
service = http.client.HTTPSConnection('localhost', port, timeout=2, context=context) if tls \
else http.client.HTTPConnection('localhost', port, timeout=2); \
service.request('GET', '/health/ready'); \
sys.exit(service.getresponse().status not in (200, 401))"]
CMD ["weightwell-service"]
