# A CUDA workstation: distill, export and bench. The context is a bundle: make bundle TARGET=x86_64-cuda
#   docker build --tag dhox:cuda --file docker/cuda.Dockerfile dist/dhox-VERSION-x86_64-cuda-cp312
# torch brings its own CUDA libraries, so the base has none; the compiler is for torch.compile.
FROM nvcr.io/nvidia/cuda:13.0.1-base-ubuntu24.04
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        gcc=4:13.* libc6-dev=2.39-* python3=3.12.* python3-dev=3.12.* \
    && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,target=/bundle sh /bundle/install.sh /opt/dhox
RUN useradd --create-home --uid 10001 dhox
ENV PATH=/opt/dhox/bin:$PATH
USER 10001
WORKDIR /work
ENTRYPOINT ["dhox"]
CMD ["doctor"]
