"""Several processes played by threads, one of which runs at a time."""

import threading

from detectron2.utils import comm


def run_sharded(monkeypatch, world_size, function):
    """``[function(rank) for each rank]``, with Detectron2's gather and barriers between them."""
    local, turn, barrier = threading.local(), threading.Lock(), threading.Barrier(world_size)
    mailbox, results, errors = [None] * world_size, [None] * world_size, []

    def meet():
        turn.release()
        try:
            barrier.wait(timeout=60)
        finally:
            turn.acquire()

    def gather(data, dst=0, group=None):
        mailbox[local.rank] = data
        meet()
        shares = list(mailbox)
        meet()
        return shares if local.rank == dst else []

    def work(rank):
        local.rank = rank
        with turn:
            try:
                results[rank] = function(rank)
            except BaseException as error:
                errors.append(error)
                barrier.abort()

    with monkeypatch.context() as patch:
        patch.setattr(comm, "gather", gather)
        patch.setattr(comm, "synchronize", meet)
        patch.setattr(comm, "get_rank", lambda: local.rank)
        patch.setattr(comm, "is_main_process", lambda: local.rank == 0)
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return results
