# SPDX-License-Identifier: MIT
"""What other modules may import of `invoices`."""
