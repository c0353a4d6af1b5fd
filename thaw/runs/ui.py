"""MLflow's own pages, served on this machine."""

import os
import socket
import subprocess
import sys
from contextlib import suppress
from urllib.parse import urlsplit

from thaw.errors import UserError
from thaw.runs.store import address, alone, artifact_folder, experiment, quieten, sqlite_file


def serve(port: int) -> None:
    """Serve the run table on 127.0.0.1 until Ctrl-C.

    Raises:
        UserError: the port is taken, or ``MLFLOW_TRACKING_URI`` names a server, which has its own UI.
    """
    uri = address()
    if urlsplit(uri).scheme in ("http", "https"):
        raise UserError(
            f"expected runs in a database, found MLFLOW_TRACKING_URI={uri}, which is a server; open it instead"
        )
    with socket.socket() as probe:
        # As servers do: a port whose last owner has just gone is free. Windows would call any port free then.
        if os.name != "nt":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(
                f"expected port {port} to be free, found another program on it (MLflow may be running already: "
                f"http://127.0.0.1:{port}); choose another, for instance 'python -m thaw.runs ui --port {port + 1}'"
            ) from None
    quieten()
    # This server shows runs; the workers for MLflow's own background jobs would only take memory.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    with alone():
        # The server would create a fresh store itself, but not wait for a stage that is doing so.
        database = sqlite_file(uri)
        if database and not database.exists():
            from mlflow import MlflowClient

            experiment(MlflowClient(uri))
    print(f"MLflow UI: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", uri, "--default-artifact-root", artifact_folder(uri).as_uri()]
    command = [sys.executable, "-m", "mlflow", "server", *options, *stores]
    if sys.platform == "win32":  # a process cannot become another one there
        with suppress(KeyboardInterrupt):  # Ctrl-C reaches the server as well, and ends it
            sys.exit(subprocess.run(command, check=False).returncode)
        sys.exit(130)
    # This process becomes the server, so that whatever ends it ends the server.
    os.execv(sys.executable, command)
