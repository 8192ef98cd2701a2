# SPDX-License-Identifier: MIT
"""Mail: customers get their invoices."""
