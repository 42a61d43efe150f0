"""Whose face it is: forgetting people and tenants, keeping nobody longer than allowed, proving that nothing is left."""

from jobs.privacy.auditing import audits
from jobs.privacy.forgetting import Forgotten, forget
from jobs.privacy.receipts import Receipt
from jobs.privacy.tenants import forget_tenant
from jobs.privacy.verifying import Remain, Sought, remains

__all__ = ["Forgotten", "Receipt", "Remain", "Sought", "audits", "forget", "forget_tenant", "remains"]
