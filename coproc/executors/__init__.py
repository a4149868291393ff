"""Run the levels of circuits on ciphertexts: several executors behind one protocol."""

from coproc.executors.base import Executor, ExecutorUnavailable, PreparedKey
from coproc.executors.evaluation import Evaluation
from coproc.executors.factory import EXECUTOR_NAMES, create_executor

__all__ = ["EXECUTOR_NAMES", "Evaluation", "Executor", "ExecutorUnavailable", "PreparedKey", "create_executor"]
