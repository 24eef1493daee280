"""Ways of spending a rollout budget: one file a published method, and the parts they share."""

from dopr.core.strategy import Group, Measure, Request, StepPlan, Strategy
from dopr.strategies.methods.ar3po import AR3PO
from dopr.strategies.methods.bots import BOTS
from dopr.strategies.methods.cero import CERO
from dopr.strategies.methods.coba_rl import CobaRL
from dopr.strategies.methods.cures import CurES
from dopr.strategies.methods.dapo import DAPO
from dopr.strategies.methods.dopr import DoPR
from dopr.strategies.methods.dopr_paper import DoPRPaper
from dopr.strategies.methods.dots import DOTS
from dopr.strategies.methods.gps import GPS
from dopr.strategies.methods.graph import Graph
from dopr.strategies.methods.greso import GRESO
from dopr.strategies.methods.history_variance import HistoryVariance
from dopr.strategies.methods.knapsack import Knapsack
from dopr.strategies.methods.lilo import LILO
from dopr.strategies.methods.limr import LIMR
from dopr.strategies.methods.mopps import MoPPS
from dopr.strategies.methods.one_shot import OneShot
from dopr.strategies.methods.oracle import Oracle
from dopr.strategies.methods.pcl import PCL
from dopr.strategies.methods.pilot_commit import PilotCommit
from dopr.strategies.methods.pods import PODS
from dopr.strategies.methods.prepo import PREPO
from dopr.strategies.methods.reinforce_ada import ReinforceAda
from dopr.strategies.methods.sec import SEC
from dopr.strategies.methods.speed import SPEED
from dopr.strategies.methods.uniform import Uniform
from dopr.strategies.methods.vcrl import VCRL
from dopr.strategies.methods.vigor import VIGOR
from dopr.strategies.methods.vip import VIP
from dopr.strategies.methods.xrpo import XRPO
from dopr.strategies.registry import PRESETS, STRATEGIES, describe_strategies, make_strategy

__all__ = [
    "AR3PO",
    "BOTS",
    "CERO",
    "DAPO",
    "DOTS",
    "GPS",
    "GRESO",
    "LILO",
    "LIMR",
    "PCL",
    "PODS",
    "PREPO",
    "PRESETS",
    "SEC",
    "SPEED",
    "STRATEGIES",
    "VCRL",
    "VIGOR",
    "VIP",
    "XRPO",
    "CobaRL",
    "CurES",
    "DoPR",
    "DoPRPaper",
    "Graph",
    "Group",
    "HistoryVariance",
    "Knapsack",
    "Measure",
    "MoPPS",
    "OneShot",
    "Oracle",
    "PilotCommit",
    "ReinforceAda",
    "Request",
    "StepPlan",
    "Strategy",
    "Uniform",
    "describe_strategies",
    "make_strategy",
]
