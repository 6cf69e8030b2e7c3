# The service in a container, with torch for the CPU:
#     docker build -t weightwell .
# without torch, which is more than half of the image; generator=torch and /signal are refused:
#     docker build -t weightwell:slim --build-arg EXTRAS=service-slim,telemetry .
# with torch for CUDA, which is what PyPI has for Linux:
#     docker build -t weightwell:cuda --build-arg TORCH_INDEX= .
# all of them, for x86-64 and arm64:
#     docker buildx bake
# The image for CUDA has a C compiler: Triton compiles its bridge to the GPU's driver when the service starts.

FROM python:3.11-slim AS build
ARG EXTRAS=service,telemetry
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
WORKDIR /source
RUN python -m venv --without-pip /opt/weightwell
# Nearly all of the image, and slow to change: in a layer of its own, before the source.
COPY constraints.txt .
RUN case ",$EXTRAS," in *,service,*) torch=torch ;; esac \
    && pip --python /opt/weightwell/bin/python install --constraint constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} numba $torch
COPY . .
RUN pip --python /opt/weightwell/bin/python install --constraint constraints.txt ".[$EXTRAS]"
# The packages with their versions and licences (CycloneDX), and the texts of the licences. The build fails if an installed
# package is in only one of them, or in none.
RUN python -m venv /opt/tools \
    && /opt/tools/bin/pip install cyclonedx-bom==7.5.0 pip-licenses==5.5.5 \
    && mkdir -p /opt/weightwell/share/doc/weightwell && cd /opt/weightwell/share/doc/weightwell \
    && /opt/tools/bin/cyclonedx-py environment --output-reproducible -o sbom.cdx.json /opt/weightwell/bin/python \
    && /opt/tools/bin/pip-licenses --python /opt/weightwell/bin/python --format plain-vertical \
        --with-system --with-license-file --with-notice-file --no-license-path --output-file LICENSES.txt \
    && /opt/weightwell/bin/python -c "import importlib.metadata, json, sys; \
installed = {(d.name, d.version) for d in importlib.metadata.distributions()}; \
listed = {(c['name'], c.get('version')) for c in json.load(open('sbom.cdx.json'))['components']}; \
texts = '\n' + open('LICENSES.txt').read(); \
missing = [d for d in sorted(installed) if d not in listed or '\n%s\n%s\n' % d not in texts]; \
print('installed:', len(installed), 'in the SBOM:', len(listed)); \
sys.exit('not in sbom.cdx.json or not in LICENSES.txt: %s' % missing if missing else 0)"
# What only those need who build on torch or test it, 200 MB, and symbols that only debuggers read. torch does not start
# without torch_shm_manager.
RUN cd /opt/weightwell/lib/python3.*/site-packages \
    && rm -rf torch/include torch/test numba/tests \
    && if [ -d torch/bin ]; then find torch/bin -type f ! -name torch_shm_manager -delete; fi \
    && find . -type d -name tests -path './[nsm]*' -prune -exec rm -r {} + \
    && strip --strip-unneeded llvmlite/binding/libllvmlite.so uvloop/*.so httptools/parser/*.so
# The kernels for x86-64-v3 and x86-64-v4, so that the service does not compile when it starts.
RUN /opt/weightwell/bin/python -m weightwell_engine.generators.philox.cpu.precompile
# A first start. It writes the bytecode of the modules that the service imports, and of no others.
RUN cd /tmp; export PATH=/opt/weightwell/bin:$PATH; weightwell-service --workers 2 & pid=$! \
    && ready="import http.client as h; c = h.HTTPConnection('localhost', 8000); c.request('GET', '/health/ready'); c.getresponse()" \
    && until python -c "$ready" 2>/dev/null; do kill -0 $pid && sleep 1 || exit 1; done; kill $pid; wait $pid

FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if [ -z "$TORCH_INDEX" ]; then \
        apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*; \
    fi
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="Weightwell" \
      org.opencontainers.image.description=\
"Initialized weight tensors over HTTP: the same spec is the same bytes, everywhere." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
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
# http.client, because urllib would ask a proxy that the environment names. Addresses, because localhost needs an /etc/hosts.
# The certificate is for the name that clients use. 401: WEIGHTWELL_OPEN_HEALTH=false, and the service answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python", "-c", "import http.client, os, ssl, sys; \
port = int(os.environ['WEIGHTWELL_PORT']); \
host = os.environ['WEIGHTWELL_HOST']; \
host = {'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host); \
tls = os.environ.get('WEIGHTWELL_TLS_CERTIFICATE'); \
context = ssl._create_unverified_context(); \
service = http.client.HTTPSConnection(host, port, timeout=2, context=context) if tls \
else http.client.HTTPConnection(host, port, timeout=2); \
service.request('GET', '/health/ready'); \
sys.exit(service.getresponse().status not in (200, 401))"]
CMD ["weightwell-service"]
