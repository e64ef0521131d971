# An image for GPU clusters, made of the requirements files:
#
#   docker build --tag kd_plugins .                       # the official stack
#   docker build --tag kd_plugins --build-arg STACK=modern --build-arg PYTHON=3.12 .
#   docker run --gpus all --shm-size 8g -v $PWD/data:/data -it kd_plugins
#
# torch's wheels bring CUDA along; the machine needs the driver and NVIDIA's container
# toolkit. It was written from what `make setup` does on CPUs, and was neither built nor
# tried on a GPU: please say if something is missing.
ARG PYTHON=3.11
FROM python:${PYTHON}-slim

# OpenCV loads the first two; git tells the commit that a training ran on.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 git \
    && rm -rf /var/lib/apt/lists/*

ARG STACK=official
WORKDIR /opt/kd_plugins
COPY requirements requirements
# Before the code, so that a change of that downloads nothing again. uv as `make` has it.
RUN pip install --no-cache-dir "$(grep -o '^uv==[0-9.]*' requirements/tests.txt)" \
    && grep -v -e '^-e' -e 'tests.txt' "requirements/make-${STACK}.txt" > requirements/image.txt \
    && uv pip install --system --no-cache --excludes requirements/excluded.txt \
        --requirements requirements/image.txt --requirements requirements/runtime.txt
COPY . .
RUN uv pip install --system --no-cache --no-deps .

WORKDIR /workspace
CMD ["bash"]
