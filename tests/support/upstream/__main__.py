"""To play with it by hand: PYTHONPATH=tests python -m support.upstream"""

import threading

from support.upstream import Upstream

with Upstream(port=8081) as playing:
    print(playing.url, *playing.served(), sep="\n")
    threading.Event().wait()
