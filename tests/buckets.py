"""A bucket for tests, on a server of this process that speaks S3's protocol."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs


@contextlib.contextmanager
def local_bucket() -> Iterator[str]:
    """Starts the server and says so in the environment. Yields the bucket's URI."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        bucket = f"bucket-{uuid.uuid4().hex}"  # all such servers of a process have the same buckets
        fs.S3FileSystem(endpoint_override=variables["AWS_ENDPOINT_URL"], allow_bucket_creation=True).create_dir(bucket)
        yield f"s3://{bucket}"
    server.stop()
