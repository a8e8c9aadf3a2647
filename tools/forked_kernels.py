"""Jupyter kernels that are forked from a process which has imported the heavy libraries already.

Importing PyTorch, Matplotlib and scikit-learn costs a page more than most of its cells do. `forked_kernels()` lets
every kernel that jupyter_client starts in this process begin as a copy of one that has them. `micacl` itself is not
among them: each page imports it anew. Where the operating system can't fork (Windows), kernels start as usual.
"""
import multiprocessing as mp
import os
import sys
from pathlib import Path

LIBRARIES = ("torch", "torch._dynamo", "numpy", "pandas", "matplotlib.pyplot", "matplotlib_inline.backend_inline",
             "scipy.stats", "sklearn.metrics", "PIL.Image", "IPython", "ipykernel.kernelapp")


def serve(argv, cwd, env, ready):
    "The child: a kernel in a process group of its own, with the environment that was asked for."
    os.setpgid(0, 0)
    mp.set_start_method(None, force=True)      # a page's own processes start as they would anywhere
    os.environ.clear(); os.environ.update(env)
    os.chdir(cwd)
    sys.argv[:] = argv
    tools = Path(__file__).parent.resolve()
    sys.path[:] = [p for p in sys.path if not p or not Path(p).resolve() == tools]      # a page does not see them
    ready.send(os.getpid()); ready.close()
    from ipykernel.kernelapp import launch_new_instance
    launch_new_instance(parent_handle=os.getppid())      # it ends with its parent


class Forked:
    "What jupyter_client asks of a subprocess.Popen."
    stdin = stdout = stderr = None

    def __init__(self, context, argv, cwd, env):
        mine, its = context.Pipe(duplex=False)
        self.process = context.Process(target=serve, args=(argv, cwd, env, its))
        self.process.start()
        its.close()
        self.pid = mine.recv()      # the group exists from here on

    def poll(self): return self.process.exitcode
    def wait(self): self.process.join(); return self.process.exitcode
    def send_signal(self, number): os.kill(self.pid, number)
    def kill(self): self.process.kill()
    def terminate(self): self.process.terminate()


def forked_kernels():
    "From here on the kernels of this process are forked, where that is possible."
    if "forkserver" not in mp.get_all_start_methods(): return
    from jupyter_client.provisioning import local_provisioner
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))

    def launch(cmd, cwd=None, env=None, **_):      # python -m ipykernel_launcher -f FILE ...
        return Forked(context, cmd[2:], cwd or os.getcwd(), dict(env or os.environ))
    local_provisioner.launch_kernel = launch
