# SPDX-License-Identifier: MIT
"""Orders: customers place them."""
