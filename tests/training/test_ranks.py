"""How rows are shared out among ranks and pieces."""

from __future__ import annotations

import torch

from sciflow.training.ranks import Ranks, chunks

CPU = torch.device("cpu")


def test_shares_of_all_ranks_cover_the_rows_once():
    for n_rows in (4, 7, 37):
        for size in (1, 2, 3, 4):
            for n_pieces in (1, 3, 100):
                shares = [Ranks(rank, size, CPU).share(n_rows, n_pieces) for rank in range(size)]
                rows = [row for share in shares for start, stop in share for row in range(start, stop)]
                assert rows == list(range(n_rows))
                sizes = [share[-1][1] - share[0][0] for share in shares]
                assert max(sizes) - min(sizes) <= 1


def test_a_single_process_is_its_own_total_and_agrees_with_itself():
    alone = Ranks.here(CPU)
    assert (alone.rank, alone.size) == (0, 1)
    assert alone.total(0.1, True) == [0.1, 1]
    assert alone.agree({"seed": 1}) is None


def test_chunks_cover_the_rows_once():
    for n_rows in range(9):
        for n_chunks in range(1, 6):
            pieces = chunks(n_rows, n_chunks)
            assert [row for start, stop in pieces for row in range(start, stop)] == list(range(n_rows))
            assert len(pieces) == min(n_rows, n_chunks)
