"""Sums over tokens against the tokens themselves."""

import torch

from pruning.compensation.moments import Moments
from pruning.compensation.ridge import fit_ridge


def tokens(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 5, generator=generator).double() + 1, torch.randn(count, 3, generator=generator).double()


def test_an_error_from_moments_is_that_of_the_tokens() -> None:
    (x, r), solution = tokens(50, 0), torch.randn(5, 3).double()
    assert abs(Moments.of(x, r).compute_error(solution) - float((r - x @ solution).square().sum())) < 1e-8


def test_moments_of_parts_add_up_and_can_be_centred_afterwards() -> None:
    (x, r), (more_x, more_r) = tokens(50, 0), tokens(30, 1)
    together = Moments.of(x, r) + Moments.of(more_x, more_r)
    whole_x, whole_r = torch.cat([x, more_x]), torch.cat([r, more_r])
    direct = Moments.of(whole_x - whole_x.mean(0), whole_r - whole_r.mean(0))
    centred = together.centre(together.means)
    for name in ("gram", "cross", "energy"):
        torch.testing.assert_close(getattr(centred, name), getattr(direct, name))


def test_what_is_left_without_some_tokens() -> None:
    (x, r), some = tokens(50, 0), torch.arange(50) < 20
    rest = Moments.of(x, r) - Moments.of(x[some], r[some])
    direct = Moments.of(x[~some], r[~some])
    assert rest.count == direct.count
    for name in ("gram", "cross", "energy"):
        torch.testing.assert_close(getattr(rest, name), getattr(direct, name))


def test_the_penalty_is_the_one_that_is_best_on_held_out_tokens() -> None:
    generator = torch.Generator().manual_seed(2)
    x, held_x = (torch.randn(12, 8, generator=generator).double() for _ in range(2))
    truth = torch.randn(8, 2, generator=generator).double()
    r, held_r = (each @ truth + torch.randn(12, 2, generator=generator).double() for each in (x, held_x))
    penalties = (1e-4, 1e-2, 1.0, 10.0)

    def left(penalty: float) -> float:
        gram = x.T @ x
        solution = torch.linalg.solve(gram + penalty * gram.diagonal().mean() * torch.eye(8).double(), x.T @ r)
        return float((held_r - held_x @ solution).square().sum())

    fit = fit_ridge(Moments.of(x, r), Moments.of(held_x, held_r), False, penalties)
    assert fit is not None
    assert fit.penalty == min(penalties, key=left)
    assert abs(fit.unexplained - left(fit.penalty) / float(held_r.square().sum())) < 1e-9


def test_no_solution_where_every_one_makes_held_out_tokens_worse() -> None:
    x, r = torch.eye(4).double(), torch.ones(4, 2).double()
    assert fit_ridge(Moments.of(x, r), Moments.of(x, -r), False) is None


def test_an_offset_is_not_penalised() -> None:
    x, r = torch.randn(40, 3).double(), torch.full((40, 2), 5.0).double()
    fit = fit_ridge(Moments.of(x[:30], r[:30]), Moments.of(x[30:], r[30:]), True)
    assert fit is not None
    assert fit.offset is not None
    torch.testing.assert_close(x @ fit.matrix + fit.offset, r)
